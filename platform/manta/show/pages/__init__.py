"""HTML pages that need nothing else, and the figures on them."""
