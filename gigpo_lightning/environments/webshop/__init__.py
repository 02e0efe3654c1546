"""WebShop in pure Python: one catalogue shared by all environments, equal to the original page for page."""
