//! What tests share: private roots, network namespaces, images made from packages.
