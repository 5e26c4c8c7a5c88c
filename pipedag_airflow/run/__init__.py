"""The run protocol: ``begin -> execute* -> publish``, or ``abandon``.

Four steps that share nothing but the metadata. Each can be killed, retried, or run twice by accident. An engine decides
where and when each of them happens, and nothing else.
"""
