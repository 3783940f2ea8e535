"""Where batches run: one short file per executor, and the child process that they share.

Nothing is imported here: an executor's module is imported when it is named, and its engine when it
is opened.
"""
