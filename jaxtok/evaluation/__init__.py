"""How good generators and codecs are: measurements over whole sets, and their files."""
