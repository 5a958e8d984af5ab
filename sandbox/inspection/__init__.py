"""Tells what tests did to their caches."""
