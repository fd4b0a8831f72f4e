"""Model revisions: what a model folder claims to be, and whether its bytes agree."""
