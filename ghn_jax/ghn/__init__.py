"""The graph hypernetwork: from a padded graph to decoded rows of parameters.

Source: Knyazev et al., NeurIPS 2021, sections 2.2, 4 and appendix B.
"""
