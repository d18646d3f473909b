"""Common corruptions of images: noise, blur, light and coding, in five severities of bench's own scale."""
