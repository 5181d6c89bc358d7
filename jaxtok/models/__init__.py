"""What users meet: trained models of each kind of media, raw media in and out; see `jaxtok.load`."""
