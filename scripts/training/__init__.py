"""Training of the embedded networks on the drawn objects of `latentmix.data.things`; see README.md."""
