{{/* The channels file: its text, and what would make the server refuse it (as app/starling/engine/channels.py does). */}}

{{/* Bytes of the file that fit into an annotation, of which a pod's may have 262,144 together. */}}
{{- define "starling.channelsLimit" -}}200000{{- end -}}

{{- define "starling.channelProblems" -}}
{{- $channels := default dict .Values.channels -}}
{{- $size := $channels | toYaml | len -}}
{{- $limit := include "starling.channelsLimit" . | int -}}
{{- if gt $size $limit -}}
{{- print "\n- " (printf "channels has %d bytes, but a pod's annotation may have %d: put the file into an image or a volume of yours (extraVolumes, extraVolumeMounts) and name it by settings.channelsFile" $size $limit) -}}
{{- end -}}
{{- include "starling.channelOptionProblems" (list "channels.default" (default dict $channels.default)) -}}
{{- range $name, $options := $channels.namespaces -}}
{{- $path := printf "channels.namespaces.%s" $name -}}
{{- if not (regexMatch "^[A-Za-z0-9_.-]{1,64}$" $name) -}}
{{- print "\n- " $path ": a name has 1 to 64 letters, digits, dots, dashes or underscores" -}}
{{- end -}}
{{- include "starling.channelOptionProblems" (list $path (default dict $options)) -}}
{{- end -}}
{{- end -}}

{{/* Takes (list PATH OPTIONS). */}}
{{- define "starling.channelOptionProblems" -}}
{{- $path := index . 0 -}}
{{- $options := index . 1 -}}
{{- $size := default 0 $options.history_size | float64 -}}
{{- $seconds := include "starling.seconds" (default 0 $options.history_ttl) | float64 -}}
{{- if ne (gt $size 0.0) (gt $seconds 0.0) -}}
{{- print "\n- " $path ": history_size and history_ttl go together: set both, or neither" -}}
{{- end -}}
{{- include "starling.streamProblems" (list $path $options) -}}
{{- range $name := list "force_recovery" "force_positioning" "allowed_delta_types" -}}
{{- if and (get $options $name) (not (gt $size 0.0)) (not $options.stream) -}}
{{- print "\n- " $path ": " $name " needs history: set history_size and history_ttl" -}}
{{- end -}}
{{- end -}}
{{- if and $options.delta_publish (not $options.allowed_delta_types) -}}
{{- print "\n- " $path ": delta_publish needs readers that may have patches: set allowed_delta_types: [fossil]" -}}
{{- end -}}
{{- if and $options.auto_cache_recover (ne (default "stream" $options.force_recovery_mode) "cache") -}}
{{- print "\n- " $path ": auto_cache_recover is for cache channels: set force_recovery_mode: cache" -}}
{{- end -}}
{{- if and (gt $size 0.0) (hasKey $options "history_meta_ttl") -}}
{{- if lt (include "starling.seconds" $options.history_meta_ttl | float64) $seconds -}}
{{- print "\n- " $path ": history_meta_ttl must not be shorter than history_ttl" -}}
{{- end -}}
{{- else if and (gt $size 0.0) (gt $seconds 2592000.0) -}}
{{- print "\n- " $path ": history_ttl is longer than the 30 days that history_meta_ttl is by default: set history_meta_ttl to as long" -}}
{{- end -}}
{{- with $options.channel_regex -}}
{{- if not (include "starling.isRegularExpression" .) -}}
{{- print "\n- " $path ": channel_regex is not a regular expression: " (quote .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Takes (list PATH OPTIONS): what does not go with append-only streams, and what goes with nothing else. */}}
{{- define "starling.streamProblems" -}}
{{- $path := index . 0 -}}
{{- $options := index . 1 -}}
{{- if $options.stream -}}
{{- range $name := list "history_size" "history_ttl" "history_meta_ttl" "allowed_delta_types" "delta_publish" "auto_cache_recover" "allow_tags_filter" "allow_publish_for_client" "allow_publish_for_subscriber" "allow_publish_for_anonymous" "publish_proxy" -}}
{{- if get $options $name -}}
{{- print "\n- " $path ": " $name " does not go with stream: take it out" -}}
{{- end -}}
{{- end -}}
{{- if ne (default "json" $options.publication_data_format) "json" -}}
{{- print "\n- " $path ": publication_data_format does not go with stream: take it out; stream says what it holds" -}}
{{- end -}}
{{- if eq (default "stream" $options.force_recovery_mode) "cache" -}}
{{- print "\n- " $path ": force_recovery_mode: cache does not go with stream: every subscriber gets all of it" -}}
{{- end -}}
{{- else -}}
{{- range $name := list "stream_max_bytes" "stream_ttl" "append_window" "producer_timeout" "stream_over_http" -}}
{{- if hasKey $options $name -}}
{{- print "\n- " $path ": " $name " is for append-only streams: set stream: text, json, bytes or any" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Seconds of a duration: a number, or one with a unit, such as 5m. */}}
{{- define "starling.seconds" -}}
{{- if kindIs "string" . -}}
{{- $text := trim . -}}
{{- if hasSuffix "ms" $text -}}
{{- divf (trimSuffix "ms" $text | float64) 1000 -}}
{{- else -}}
{{- $units := dict "s" 1 "m" 60 "h" 3600 "d" 86400 -}}
{{- mulf (trimSuffix (substr (int (sub (len $text) 1)) (len $text) $text) $text | float64) (get $units (substr (int (sub (len $text) 1)) (len $text) $text)) -}}
{{- end -}}
{{- else -}}
{{- . | float64 -}}
{{- end -}}
{{- end -}}

{{/* "true" unless it is certain that Python refuses the expression. Helm compiles it as Go does: the expression or
     nothing matches nothing, unless it is wrong. What only Python knows (look-around, references back, possessive
     repetition, comments, its own flags and escapes, long repetitions) is left to the server. */}}
{{- define "starling.isRegularExpression" -}}
{{- $pythonOnly := `\(\?([=!>#(]|<[=!]|P=|[a-zA-Z-]*[aLux])|\\[1-9ZuUN]|[*+?}]\+|\{[0-9,]*[0-9]{4}` -}}
{{- $goOnly := `(^|[^\\])(\\\\)*\\[pPQEzC]|\(\?(P<[^A-Za-z_]|[a-z-]*U)` -}}
{{- if and (not (regexMatch $goOnly .)) (or (regexMatch $pythonOnly .) (regexMatch (printf "%s|" .) "")) }}true{{ end -}}
{{- end -}}
