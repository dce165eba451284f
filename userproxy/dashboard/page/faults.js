// Which faults are about an endpoint.

/** Those of a service port, by its key, that all its endpoints have, or this one. */
export function faultsOf(faults, subject, endpoint) {
  const [namespace, name, port] = (subject ?? "").split("/");
  return faults.filter(
    (each) =>
      each.service === `${namespace}/${name}` &&
      (each.ports.length === 0 || each.ports.includes(port)) &&
      (each.endpoint === null || each.endpoint === endpoint),
  );
}
