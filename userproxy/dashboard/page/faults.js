// Which faults and drains are about an endpoint, and how long they last.

import { age } from "./figures.js";

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

/** The drain of an endpoint of a service port, by its key; undefined if there is none. */
export function drainOf(drains, subject, endpoint) {
  const [namespace, name] = (subject ?? "").split("/");
  return drains.find((each) => each.service === `${namespace}/${name}` && each.endpoint === endpoint);
}

/** What a fault does, to whom, and how long it will, at the Unix time `now`. */
export function faultText(fault, now) {
  return `${fault.text}${fault.client ? `, clients ${fault.client}` : ""}, ${left(fault.until, now)}`;
}

/** How long a drain lasts, and when it closes what is left, at the Unix time `now`. */
export function endOf(drain, now) {
  const end = drain.until === null ? "until it is ended" : left(drain.until, now);
  return drain.closes_at === null || Date.parse(drain.closes_at) / 1000 < now ? end : `${end}, connections are closed in ${age(Date.parse(drain.closes_at) / 1000 - now)}`;
}

function left(until, now) {
  return `${age(Date.parse(until) / 1000 - now)} left`;
}
