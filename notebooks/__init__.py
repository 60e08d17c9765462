"""Executed notebooks on an archive; `python -m notebooks.execute` (`make notebooks`) runs them again."""
