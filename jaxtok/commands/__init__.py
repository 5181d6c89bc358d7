"""What the commands of `jaxtok` do, by kind of media."""
