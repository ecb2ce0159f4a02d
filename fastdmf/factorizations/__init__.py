"""How the matrix is parameterized."""

from fastdmf.factorizations.base import Factorization
from fastdmf.factorizations.product import Product
from fastdmf.factorizations.symmetric import Symmetric

__all__ = ["Factorization", "Product", "Symmetric"]
