"""The page that shows a run, several runs compared, or a sweep: `report.html`, and a PDF on request."""
