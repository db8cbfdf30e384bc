"""The core tools: files, searches and commands; a module each, exported by `alloy.tools`."""
