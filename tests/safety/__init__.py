"""Tests of nightbell.safety."""
