# Keycloak, built for PostgreSQL and for the path /identity, so that it starts quickly on a read-only file system.
ARG KEYCLOAK_IMAGE=quay.io/keycloak/keycloak:26.7.4

FROM ${KEYCLOAK_IMAGE} AS build
ENV KC_DB=postgres \
    KC_CACHE=local \
    KC_HEALTH_ENABLED=true \
    KC_HTTP_RELATIVE_PATH=/identity \
    KC_HTTP_MANAGEMENT_RELATIVE_PATH=/
RUN /opt/keycloak/bin/kc.sh build

FROM ${KEYCLOAK_IMAGE}
COPY --from=build /opt/keycloak /opt/keycloak
COPY infra/keycloak/realm.json /opt/keycloak/realms/realm.json
COPY infra/keycloak/start.sh /opt/kasbah/start.sh
USER 1000
ENTRYPOINT ["bash", "/opt/kasbah/start.sh"]
