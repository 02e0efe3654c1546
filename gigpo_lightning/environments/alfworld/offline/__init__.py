"""ALFWorld games made from floor plans without a download, and an expert that plays them."""
