"""The feature language: what a person writes about an event log, fitted and encoded in polars."""
