"""From the store to tables, figures and the page; never imports torch."""
