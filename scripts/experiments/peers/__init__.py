"""Other libraries' detectors in the form that our trainer and our evaluation take: same pictures, same backbone."""

from .configuration import PEERS, PeerConfig
from .modeling import PeerForObjectDetection

__all__ = ["PEERS", "PeerConfig", "PeerForObjectDetection"]
