"""Tests of nightbell.console."""
