"""The errors with which a run stops; each message is one sentence for the person at the terminal."""


class TrainingError(RuntimeError):
    """Training cannot go on: the message says why and what is safe."""


class CheckpointError(TrainingError):
    """A checkpoint could not be written or read: the message names it and the last whole one."""


class LockedError(TrainingError):
    """Another process holds the workdir."""
