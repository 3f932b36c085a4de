"""The check of everything that latentmix does on a GPU; `__main__.py` says how to run it."""
