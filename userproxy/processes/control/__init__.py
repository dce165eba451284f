"""The control process: starts data processes, holds the sockets that they serve, and adds up what they say."""
