"""One HTML page about one or more runs: settings, curves, scores with intervals, pictures, throughput."""

from unifluid.report.page import Section, write_page

__all__ = ["Section", "write_page"]
