"""A cache backend that reaches into its client, as only a real memcached lets it."""

from django.core.cache.backends.memcached import PyMemcacheCache


class CountingCache(PyMemcacheCache):
    """Adds what Django's cache API leaves out: the servers' counters, and compare-and-set."""

    def server_stats(self):
        """Return the counters of each server, by its address."""
        return {
            f"{server[0]}:{server[1]}" if isinstance(server, tuple) else server: {
                name.decode(): value for name, value in client.stats().items()
            }
            for server, client in (
                (client.server, client) for client in self._cache.clients.values()
            )
        }

    def append_to_list(self, key, item, limit=5):
        """Put an item at the head of a list, safe against other processes that do the same."""
        key = self.make_and_validate_key(key)
        while True:
            items, token = self._cache.gets(key)
            if token is None:
                if self._cache.add(key, [item]):
                    return [item]
            else:
                items = [item, *(other for other in items if other != item)][:limit]
                if self._cache.cas(key, items, token):
                    return items
