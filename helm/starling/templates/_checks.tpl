{{/* Values that contradict one another, which the schema cannot see. All are reported at once, each with its remedy. */}}

{{- define "starling.checks" -}}
{{- $problems := print (include "starling.timeProblems" .) (include "starling.secretProblems" .) (include "starling.brokerProblems" .) (include "starling.podProblems" .) (include "starling.routeProblems" .) (include "starling.channelProblems" .) -}}
{{- if $problems -}}
{{- fail (print "these values cannot be used:" $problems) -}}
{{- end -}}
{{- end -}}

{{- define "starling.timeProblems" -}}
{{- $grace := include "starling.grace" . | int -}}
{{- $sufficient := include "starling.sufficientGrace" . | int -}}
{{- if lt $grace $sufficient -}}
{{- print "\n- " (printf "terminationGracePeriodSeconds is %d, but settings.drainDelaySeconds, the drain (settings.drainSeconds, else settings.maxConnections × workers at settings.drainRate) and 35 seconds to close need %d: raise it, leave it null, or drain faster" $grace $sufficient) -}}
{{- end -}}
{{- $deadline := include "starling.progressDeadline" . | int -}}
{{- $slowest := include "starling.slowestRollout" . | int -}}
{{- if le $deadline $slowest -}}
{{- print "\n- " (printf "progressDeadlineSeconds is %d, but a healthy rolling update may take %d seconds (pods × (grace + minReadySeconds)): raise it or leave it null" $deadline $slowest) -}}
{{- end -}}
{{- if le $deadline (int .Values.minReadySeconds) -}}
{{- print "\n- " (printf "progressDeadlineSeconds (%d) must be more than minReadySeconds (%d)" $deadline (int .Values.minReadySeconds)) -}}
{{- end -}}
{{- end -}}

{{- define "starling.secretProblems" -}}
{{- range $name, $secret := .Values.secrets -}}
{{- $ways := 0 -}}
{{- if $secret.existingSecret }}{{ $ways = add1 $ways }}{{ end -}}
{{- if $secret.value }}{{ $ways = add1 $ways }}{{ end -}}
{{- if $secret.generate }}{{ $ways = add1 $ways }}{{ end -}}
{{- if gt (int $ways) 1 -}}
{{- print "\n- " (printf "secrets.%s: set only one of existingSecret, value and generate" $name) -}}
{{- end -}}
{{- end -}}
{{- $secret := .Values.secrets.tokenHmacSecret -}}
{{- $settings := .Values.settings -}}
{{- $key := or (include "starling.secretReference" (list . "tokenHmacSecret")) $settings.tokenPublicKey $settings.tokenJwksUrl -}}
{{- if not (or $key $settings.dev (include "starling.tokenKeyFromOutside" .)) -}}
{{- print "\n- " "no key to check tokens with: set secrets.tokenHmacSecret.existingSecret to a Secret of yours, or secrets.tokenHmacSecret.generate=true or null, or settings.tokenJwksUrl, or settings.tokenPublicKey (to try out: settings.dev=true lets everyone in)" -}}
{{- end -}}
{{- if and $settings.dev $settings.tokenJwksUrl -}}
{{- print "\n- " "settings.dev lets everyone in, which contradicts settings.tokenJwksUrl: unset one of the two" -}}
{{- end -}}
{{- end -}}

{{- define "starling.brokerProblems" -}}
{{- $broker := .Values.secrets.brokerUrl -}}
{{- $own := or $broker.existingSecret $broker.value -}}
{{- if and .Values.redis.enabled $own -}}
{{- print "\n- " "redis.enabled and secrets.brokerUrl are both set: turn redis.enabled off to use the broker of your own" -}}
{{- end -}}
{{- if hasPrefix "memory://" $broker.value }}{{ $own = "" }}{{ end -}}
{{- if not (or $own .Values.redis.enabled (include "starling.mayComeFromOutside" (list . "STARLING_BROKER_URL"))) -}}
{{- if gt (include "starling.mostPods" . | int) 1 -}}
{{- print "\n- " (printf "%s pods, but no broker joins them: set secrets.brokerUrl.existingSecret (or .value) to redis://…, or redis.enabled=true to try out, or replicaCount=1" (include "starling.mostPods" .)) -}}
{{- end -}}
{{- if gt (default 1 .Values.settings.workers | int) 1 -}}
{{- print "\n- " (printf "settings.workers is %d, but no broker joins them: set secrets.brokerUrl or redis.enabled, or settings.workers=1" (int .Values.settings.workers)) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.brokerCa.existingSecret .Values.settings.brokerCaFile -}}
{{- print "\n- " "brokerCa.existingSecret and settings.brokerCaFile are both set: unset one of the two" -}}
{{- end -}}
{{- if and .Values.brokerClientCert.existingSecret (or .Values.settings.brokerCertFile .Values.settings.brokerKeyFile) -}}
{{- print "\n- " "brokerClientCert.existingSecret and settings.brokerCertFile or settings.brokerKeyFile are both set: unset one of the two" -}}
{{- end -}}
{{- $tracing := .Values.tracing -}}
{{- if and $tracing.enabled .Values.settings.tracing -}}
{{- print "\n- " "tracing.enabled and settings.tracing are both set: unset settings.tracing" -}}
{{- end -}}
{{- $endpoint := or $tracing.endpoint $tracing.env.OTEL_EXPORTER_OTLP_ENDPOINT $tracing.env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT -}}
{{- if and $tracing.enabled (not (or $endpoint (include "starling.mayComeFromOutside" (list . "OTEL_EXPORTER_OTLP_ENDPOINT")) (include "starling.mayComeFromOutside" (list . "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")))) -}}
{{- print "\n- " "tracing.enabled without tracing.endpoint: name the collector, as in http://collector.monitoring:4318" -}}
{{- end -}}
{{- if and .Values.channels .Values.settings.channelsFile -}}
{{- print "\n- " "channels and settings.channelsFile are both set: unset one of the two" -}}
{{- end -}}
{{- end -}}

{{- define "starling.podProblems" -}}
{{- if eq (int .Values.settings.port) (int .Values.settings.internalPort) -}}
{{- print "\n- " (printf "settings.port and settings.internalPort are both %d: give one of them another port" (int .Values.settings.port)) -}}
{{- end -}}
{{- $surge := .Values.rollingUpdate.maxSurge | toString -}}
{{- $missing := .Values.rollingUpdate.maxUnavailable | toString -}}
{{- if and (has $surge (list "0" "0%")) (has $missing (list "0" "0%")) -}}
{{- print "\n- " "rollingUpdate.maxSurge and rollingUpdate.maxUnavailable are both 0, so that no pod could ever be replaced: raise one of them" -}}
{{- end -}}
{{- $budget := .Values.podDisruptionBudget -}}
{{- if $budget.enabled -}}
{{- if and (not (kindIs "invalid" $budget.minAvailable)) (not (kindIs "invalid" $budget.maxUnavailable)) -}}
{{- print "\n- " "podDisruptionBudget.minAvailable and .maxUnavailable are both set: set one of them to null" -}}
{{- end -}}
{{- if and (kindIs "invalid" $budget.minAvailable) (kindIs "invalid" $budget.maxUnavailable) -}}
{{- print "\n- " "podDisruptionBudget needs minAvailable or maxUnavailable: set one, or enabled=false" -}}
{{- end -}}
{{- end -}}
{{- $names := list -}}
{{- range .Values.extraEnv -}}
{{- if has .name $names -}}
{{- print "\n- " (printf "extraEnv has %s twice, which a cluster refuses: keep one of them" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled .Values.keda.enabled -}}
{{- print "\n- " "autoscaling.enabled and keda.enabled are both set, and the two would fight over the number of pods: turn one off" -}}
{{- end -}}
{{- if and .Values.keda.enabled (not .Values.keda.serverAddress) -}}
{{- print "\n- " "keda.enabled without keda.serverAddress: name your Prometheus, as in http://prometheus-operated.monitoring:9090" -}}
{{- end -}}
{{- if include "starling.autoscaled" . -}}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) -}}
{{- print "\n- " "autoscaling.minReplicas is more than autoscaling.maxReplicas" -}}
{{- end -}}
{{- if not (include "starling.targetConnections" .) -}}
{{- print "\n- " "autoscaling (and keda) needs to know what a pod holds: set settings.maxConnections (70 % of it is aimed at), or autoscaling.targetConnections" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "starling.routeProblems" -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- print "\n- " "ingress.enabled without ingress.hosts: name at least one host" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- print "\n- " "httpRoute.enabled without httpRoute.parentRefs: name the Gateway that serves it" -}}
{{- end -}}
{{- if .Values.certificate.enabled -}}
{{- if not .Values.certificate.issuerRef.name -}}
{{- print "\n- " "certificate.enabled without certificate.issuerRef.name: name the Issuer or ClusterIssuer that signs it" -}}
{{- end -}}
{{- if not (include "starling.certificateNames" . | fromYamlArray) -}}
{{- print "\n- " "certificate.enabled without a name to certify: set certificate.dnsNames, or the hosts of the ingress or the httpRoute" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled -}}
{{- print "\n- " "serviceMonitor.enabled and podMonitor.enabled are both set: every pod would be scraped twice; turn one off" -}}
{{- end -}}
{{- end -}}
