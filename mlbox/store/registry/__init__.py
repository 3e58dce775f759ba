"""The model registry: versions, policies, promotions, and the decisions about them."""
