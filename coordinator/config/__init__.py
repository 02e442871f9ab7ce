"""Cluster files: what somebody wants, read from YAML into one typed ClusterFile, with every mistake at once."""

from coordinator.config.cluster import (
    ClusterFile,
    ContainerSpec,
    Devstack,
    Host,
    NatBox,
    Network,
    NovaOptions,
    PublishedApi,
    PublishedPort,
    RoutedNetwork,
    VlanNetwork,
)
from coordinator.config.load import load_bytes, load_file, read_bytes
from coordinator.config.problem import ConfigError, Place, Problem
from coordinator.config.settings import Settings, find_settings, load_settings
from coordinator.config.surroundings import Surroundings, parse_distributions

__all__ = [
    "ClusterFile",
    "ConfigError",
    "ContainerSpec",
    "Devstack",
    "Host",
    "NatBox",
    "Network",
    "NovaOptions",
    "Place",
    "Problem",
    "PublishedApi",
    "PublishedPort",
    "RoutedNetwork",
    "Settings",
    "Surroundings",
    "VlanNetwork",
    "find_settings",
    "load_bytes",
    "load_file",
    "load_settings",
    "parse_distributions",
    "read_bytes",
]
