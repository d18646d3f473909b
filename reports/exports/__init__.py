"""The exported files: one file of code each.

To add one, put a file into this folder with a function `(board) -> content` under the decorator `@export(…)` of
`registry.py`. `writer.py` writes it beside the page and the page offers it for download; nothing else needs an edit.
"""
