"""What ``python -m pipeline.report`` shows: views of a store as plain records, drawings as points, and the page."""
