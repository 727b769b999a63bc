package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

import com.fasterxml.jackson.databind.node.ObjectNode;

import dev.fathom.Activation;
import dev.fathom.GateFunction;
import dev.fathom.RouterKind;
import dev.fathom.depth.KvPolicy;
import dev.fathom.examples.ModelConfig.Sharing;

class ModelConfigTest {
    private static final String PLAIN = """
            {'model_type': 'llama', 'hidden_size': 64, 'intermediate_size': 96, 'num_hidden_layers': 8,
             'num_attention_heads': 4, 'vocab_size': 256}""";

    /** PLAIN with the keys of another object. */
    private static ModelConfig with(String changes) throws IOException {
        ObjectNode root = (ObjectNode) TestModel.json(PLAIN.replace('\'', '"'));
        root.setAll((ObjectNode) TestModel.json(changes.replace('\'', '"')));
        return ModelConfig.parse(root);
    }

    @Test
    void absentKeysHaveTheirUsualValues() throws IOException {
        ModelConfig config = with("{}");
        assertEquals(4, config.kvHeads());
        assertEquals(16, config.headDim());
        assertEquals(2048, config.contextLength());
        assertEquals(1e-6f, config.normEps());
        assertEquals(Activation.SILU, config.activation());
        assertFalse(config.tiedEmbeddings());
        assertEquals(1, config.depths());
        assertNull(config.recursion());
        assertNull(config.routing());
        assertNull(config.lora());
        assertEquals((float) Math.pow(10000, -2.0 * 3 / 16), config.ropeFrequency()[3]);
    }

    @Test
    void bothSpellingsOfRopeAreRead() throws IOException {
        float[] old = with("{'rope_theta': 500000.0, 'rope_scaling': {'type': 'linear', 'factor': 4}}").ropeFrequency();
        float[] recent = with("{'rope_parameters': {'rope_type': 'linear', 'rope_theta': 500000.0, 'factor': 4.0}}")
                .ropeFrequency();
        assertEquals((float) (Math.pow(500000, -2.0 * 5 / 16) / 4), old[5]);
        assertEquals(old[5], recent[5]);
        assertEquals(4, with("{'partial_rotary_factor': 0.5}").ropeFrequency().length);
    }

    @Test
    void llama3ScalingKeepsShortWavesAndSlowsLongOnes() throws IOException {
        String scaling = "{'rope_scaling': {'rope_type': 'llama3', 'factor': 8, 'low_freq_factor': 1, "
                + "'high_freq_factor': 4, 'original_max_position_embeddings': 256}}";
        float[] plain = with("{}").ropeFrequency();
        float[] scaled = with(scaling).ropeFrequency();
        assertEquals(plain[0], scaled[0]);
        assertEquals(plain[7] / 8, scaled[7], 1e-9f);
        double turns = 256 * plain[3] / (2 * Math.PI); // between 1 and 4: blended
        double kept = (turns - 1) / 3;
        assertTrue(kept > 0 && kept < 1);
        assertEquals(plain[3] * (kept + (1 - kept) / 8), scaled[3], 1e-7);
    }

    @Test
    void routingHasDefaultsPerType() throws IOException {
        ModelConfig expert = with("{'recursive': {'enable': true, 'num_recursion': 3}, 'mor': {'enable': true}}");
        assertEquals(Sharing.MIDDLE_CYCLE, expert.recursion().sharing());
        assertTrue(expert.recursion().tiedNorms());
        assertFalse(expert.routing().tokenChoice());
        assertEquals(GateFunction.SIGMOID, expert.routing().function());
        assertEquals(0.1f, expert.routing().alpha());
        assertEquals(1f, expert.routing().temperature());
        assertTrue(expert.routing().weighted());
        ModelConfig token = with("{'recursive': {'num_recursion': 3}, 'mor': {'type': 'token'}}");
        assertEquals(GateFunction.SOFTMAX, token.routing().function());
        assertEquals(1f, token.routing().alpha());
        assertFalse(token.routing().biased());
    }

    @Test
    void routingOptionsMayBeNestedAndWrittenAsText() throws IOException {
        ModelConfig config = with("""
                {'recursive': {'enable': 'true', 'num_recursion': '3', 'sharing': 'cycle', 'ln_share': 'False'},
                 'kv_sharing': {'enable': true}, 'relaxation': {'enable': 'false'},
                 'mor': {'enable': true, 'type': 'token', 'temp': 2.0,
                         'token': {'router_func': 'sigmoid', 'alpha': '0.25', 'router_type': 'wide_mlp',
                                   'balancing': 'loss_free'},
                         'expert': {'router_func': 'tanh'}}}""");
        assertEquals(Sharing.CYCLE, config.recursion().sharing());
        assertFalse(config.recursion().tiedNorms());
        assertEquals(KvPolicy.FIRST_DEPTH, config.kv());
        assertNull(config.lora());
        assertEquals(GateFunction.SIGMOID, config.routing().function());
        assertEquals(RouterKind.MLP, config.routing().router());
        assertEquals(0.25f, config.routing().alpha());
        assertEquals(2f, config.routing().temperature());
        assertTrue(config.routing().biased());
    }

    @Test
    void loraScaleIsAlphaByRank() throws IOException {
        assertEquals(2f, with("{'relaxation': {'enable': true, 'lora': {'r': 8, 'alpha': 16}}}").lora().scale());
        assertEquals(1f, with("{'relaxation': {'enable': true, 'lora': {'r': 8}}}").lora().scale());
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', quoteCharacter = '~', textBlock = """
            {'hidden_size': 0}                                              | hidden_size must be a whole number in 1..
            {'hidden_size': 64.5}                                           | hidden_size
            {'hidden_size': 1e30}                                           | hidden_size
            {'hidden_size': {}}                                             | hidden_size
            {'hidden_size': null}                                           | got nothing
            {'num_hidden_layers': -3}                                       | num_hidden_layers
            {'num_key_value_heads': 3}                                      | multiple of num_key_value_heads
            {'num_key_value_heads': 5}                                      | num_key_value_heads must be
            {'head_dim': 20}                                                | head_dim must be a multiple of 8
            {'head_dim': 512}                                               | head_dim
            {'hidden_act': 'swish9'}                                        | hidden_act must be one of
            {'model_type': 'gemma'}                                         | model_type must be one of
            {'rms_norm_eps': 'tiny'}                                        | rms_norm_eps must be a positive number
            {'tie_word_embeddings': 'perhaps'}                              | true or false
            {'sliding_window': 128}                                         | sliding_window
            {'rope_scaling': {'rope_type': 'yarn', 'factor': 2}}            | rope type yarn is not supported
            {'rope_scaling': {'rope_type': 'llama3', 'factor': 2}}          | low_freq_factor
            {'rope_scaling': {'rope_type': 'linear', 'factor': -1}}         | factor
            {'rope_theta': 0}                                               | rope_theta
            {'partial_rotary_factor': 0.2}                                  | an even number
            {'recursive': true}                                             | recursive must be an object or false
            {'recursive': {'enable': true}}                                 | recursive.num_recursion
            {'recursive': {'num_recursion': 2, 'sharing': 'spiral'}}        | recursive.sharing must be one of
            {'mor': {'enable': true}}                                       | needs an enabled object recursive
            {'recursive': {'num_recursion': 2}, 'mor': {'router_func': 'softmax'}} | softmax is for token choice
            {'recursive': {'num_recursion': 2}, 'mor': {'alpha': 'NaN'}}    | mor.alpha
            {'relaxation': {'enable': true, 'dora': {}}}                    | relaxation needs an object lora
            """)
    void nonsenseIsNamed(String changes, String reason) {
        String message = assertThrows(UserException.class, () -> with(changes)).getMessage();
        assertTrue(message.contains(reason), message);
        assertTrue(message.startsWith("config.json: "), message);
    }
}
