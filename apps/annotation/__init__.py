"""The MONAI Label app and the server that speaks its wire contract; readers' viewers in, reads and prelabels out."""

from apps import compat

compat.mend()
