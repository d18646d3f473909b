"""The figures of the page: one file each.

To add one, put a file into this folder with a function `(board, tables) -> Figure | None` under the decorator
`@figure(order=…)` of `figure.py`; None means that the board has nothing to draw. Nothing else needs an edit: `index.py`
finds every file here. Choose columns by what they are (`board.first("curvature")`, `columns.families`), never by name;
draw on a `Sheet`, which makes a themed SVG of it.
"""
