"""Certificates and keys: files, contexts made of them, and keeping them up to date."""
