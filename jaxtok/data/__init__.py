"""Data: sources by string, examples planned without decoding, batches that resume exactly.

``pipeline.training`` and ``pipeline.evaluation`` give batches, ``sources.open_source`` the records,
``speech.Utterances`` makes the examples, ``pack.pack`` and ``check.check`` prepare a user's own folder, ``audio`` reads
and writes files.
"""
