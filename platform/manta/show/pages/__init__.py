"""Self-contained HTML pages, and the figures on them."""
