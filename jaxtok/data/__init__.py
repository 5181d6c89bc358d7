"""Data: sources by string, examples planned without decoding, batches that resume exactly.

``pipeline.training`` and ``pipeline.evaluation`` give batches, ``sources.open_source`` the records,
``speech.Utterances`` and ``images.Images`` make the examples, ``pack.pack`` and ``check.check`` prepare a user's own
folder, ``audio`` and ``picture`` read and write files.
"""
