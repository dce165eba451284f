"""The reconciler: makes listeners, balancers and portals what the Services ask for.

`family` is one address family of a running proxy: a `runner` that says when to sync, a `proxier` that syncs, and the
`health_checks` of Services. The proxier applies changed Services to `service_map` and `wanted`, has `plan` compare what
is wanted with what there is, and has `executor` perform the plan. `endpoint_changes` takes over what needs no plan.
`loops` finds endpoints that would make traffic loop, `local_addresses` the portals that belong to the node's own
programs, and `conntrack` the kernel's entries that are stale.

The other parts of userproxy are seen as the Protocols in `interfaces`; only health checks use telemetry's HTTP ports
directly. What is asked of the control plane is answered in `inspect`.
"""
