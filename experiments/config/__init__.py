"""What is checked of a composed config before any data is read, and how configs are composed."""

from datamodules.installed import ROOT

CONF = ROOT / "conf"
