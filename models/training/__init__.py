"""Recipe of the default acoustic model: prepare data, train, export. The only package that imports torch."""
