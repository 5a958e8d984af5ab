"""The part of memcached-sandbox that runs inside the processes of a run. Private."""
