"""The assertions of the `bounds` evaluation: along segments and at the image, and the columns that they fill."""
