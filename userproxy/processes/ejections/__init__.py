"""Which endpoints get no new connections because they fail: data processes tell, and the control process decides."""
