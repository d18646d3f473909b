"""From stored tables to the board: rows, columns, ranks, comparisons."""
