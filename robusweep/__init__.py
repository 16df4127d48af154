"""robusweep: sweep clean against adversarial accuracy of text classifiers, honestly and economically."""

__version__ = "0.1.0"
