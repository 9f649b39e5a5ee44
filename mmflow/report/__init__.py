"""A run's charts, table and what predicted what, as figures and as a page, from what it has left on disk."""
