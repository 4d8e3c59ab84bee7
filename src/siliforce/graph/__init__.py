"""Neighbour lists and the batched graph every model reads."""

from siliforce.graph.graph import Graph, System, assemble, collate
from siliforce.graph.neighbors import NeighborList, neighbor_list
from siliforce.graph.topology import Topology

__all__ = ["Graph", "NeighborList", "System", "Topology", "assemble", "collate", "neighbor_list"]
