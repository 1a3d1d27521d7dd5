"""Manifolds of the flow: unit spheres and their products with Euclidean blocks."""

from bayesflow_nn.geometry.product import EuclideanBlock, ProductManifold, SphereBlock
from bayesflow_nn.geometry.sphere import Sphere

__all__ = ["EuclideanBlock", "ProductManifold", "Sphere", "SphereBlock"]
