// Reads custom resources as a JSON list from standard input; prints a JSON list with what is wrong with each, "" if nothing.

import { Certificate } from "@kubernetes-models/cert-manager/cert-manager.io/v1/Certificate";
import { HTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute";
import { PodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { text } from "node:stream/consumers";

const kinds = { Certificate, HTTPRoute, PodMonitor, PrometheusRule, ScaledObject, ServiceMonitor };

function problem(resource) {
  try {
    new kinds[resource.kind](resource).validate();
    return "";
  } catch (error) {
    return error.message;
  }
}

process.stdout.write(JSON.stringify(JSON.parse(await text(process.stdin)).map(problem)));
